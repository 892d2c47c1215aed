"""Pairs of layers, as far as no framework matters: what a user writes about them, and how layers' values are read.

A backend hands in what only it can know: `kdhooks.pairs.options.PairRules`, its tables of losses and matchers, and
`kdhooks.pairs.selection.Values`, what its tensors are.
"""
