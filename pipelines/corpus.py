def revise(facts, stored, groups, verdicts):
    """placeholder"""
