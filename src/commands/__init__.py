"""The commands: one module each with a `main(argv=None)`, also installed under its name by pip."""
