"""What people see of long work: a live display in a terminal, plain lines anywhere else."""
