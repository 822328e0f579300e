"""What the papers compare: the experiments of SHAPO (`safety`) and of SHAC-ASAM (`robots`), their budgets, and the
statistics that judge them.
"""
