"""The little languages: rules, targets and pipelines, and the graph as text."""
