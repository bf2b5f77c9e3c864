"""Token migration, windows with gathering tokens, and what they are compared with."""
