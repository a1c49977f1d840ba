"""Other people's layouts in: one module a format, each over `contract.Importer`. Nothing in a source is believed."""
