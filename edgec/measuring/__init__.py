"""Choices of the cost model refined by measuring, for `edgec build --measure`: which kernels are tried, how, and what is remembered.

`candidates.py` says what could stand in a kernel's place, `trial.py` times kernels by themselves, `database.py` remembers what came of it,
and `refine.py` spends the budget.
"""
