"""Prediction as a stream: rows come in, results go out in their order, and only a few thousand are held between.

source.py    the input's rows, one by one; feed.py reads them ahead; pieces.py their tokens; reader.py the model
sinks.py     where results go; progress.py what is told meanwhile; stream.py all of it together

What a task's results look like is in `privet.common.outputs`.
"""
