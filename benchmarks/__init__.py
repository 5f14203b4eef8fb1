"""The measurements behind the numbers: one script a claim, each with its peer in the same run.

`python -m benchmarks` repeats all and writes README.md's table from what they print.
"""
