"""Every architecture in every format, measured: `python -m benchmarks.matrix`, or `make matrix`.

A row is a small randomly initialised model of one architecture, with real processors, for one task. A cell is a row in one
format: converted by `satchel.convert`, replayed by `satchel_runtimes`, and asked the same questions as `transformers.pipeline`.
"""
