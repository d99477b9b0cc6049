"""What an operator has looked at before anything connects: network, machine, one synthetic step, the texts' content."""
