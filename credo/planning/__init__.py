"""What a recipe takes, by arithmetic: its batch, memory and time, on one machine or on a cluster."""
