"""Pre-training objectives: masked image and masked feature modelling (paper, section 3)."""
