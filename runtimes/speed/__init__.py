"""What ``lcr-edge bench`` measures beside the steps: the machine, its power and memory, and the products alone."""
