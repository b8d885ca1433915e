"""The page in the browser, the API behind it, and the metrics. It only reads.

What fails here never touches reading and publishing.
"""
