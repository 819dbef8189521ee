"""Reports for people: the same `results.Report` as a page, as Markdown and in a terminal.

    JSON files ─▶ merge ─▶ Report ─▶ rows (what belongs together, how numbers read) ─▶ html, markdown, text
                                          └─▶ charts ─▶ html

Nothing is measured here and nothing is left out: what failed, was cut off or noisy stands in every form.
"""
