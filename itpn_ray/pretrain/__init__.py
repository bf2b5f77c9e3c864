"""Pre-training objectives: masked image modelling and masked feature modelling (paper, section 3)."""
