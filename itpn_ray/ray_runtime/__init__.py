"""How this project uses Ray: its settings, starting and finding it, tasks of Ray Data."""
