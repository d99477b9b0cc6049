"""What privet costs, measured side by side on one machine.

from privet.simulations.bench.privacy import bench_privacy
"""
