"""The paper's tables and figures as grids of runs, and what comes out of them."""
