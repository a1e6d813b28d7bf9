"""What it would cost to make each layer of a net smaller: its results, its time, its bytes, its energy."""
