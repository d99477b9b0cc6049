"""Audits of the trainer: how much of a training an attacker demonstrably sees, beside what the accountant claims.

from privet.simulations.audit.run import audit
"""
