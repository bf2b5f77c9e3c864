"""Detection of turned boxes, as DOTA has them."""
