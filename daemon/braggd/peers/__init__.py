"""Other packages for phase retrieval, run beside braggd to measure both; each by an interpreter that has it.

`pynx_run.py` and `cohere_run.py` are scripts for that interpreter: they need numpy and their package, not braggd.
"""
