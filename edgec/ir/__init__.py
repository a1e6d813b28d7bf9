"""The intermediate representation: types, graphs, edits, and what nodes mean."""
