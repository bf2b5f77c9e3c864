"""What machines cost: a user's price list, and the ledger of a run's machines."""
