"""Judging an adapter on a labelled file: metrics with intervals, calibration, groups. Numbers only: no file, no page.

One file a task says what a record adds (`classification`, `multilabel`); everything after that is shared.
"""
