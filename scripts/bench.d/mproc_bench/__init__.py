"""The benchmark behind scripts/bench: mproc_go beside its rivals, compared only within one run.

The machine is noisy, so a lone time says nothing. In each scenario the subjects take turns (A B C A B C ...), each turn
in a process of its own, and what is printed is the median of the turns, with the ratios taken turn by turn. Every
subject does the same work and checks its result.

Reading order: registry (what there is), cli, turns (one measurement in its own process; child is the other end of it),
report; then the subjects: channels, mpmc, pingpong, hot, spawn, startup, kills, cpu, golang. place puts goroutines on
different Ps.
"""
