"""What scripts/torture runs: full traffic, a nemesis that kills workers all the time, and a ledger of everything.

Reading order: journal -> bodies -> traffic -> nemesis -> quiet -> cli.
"""
