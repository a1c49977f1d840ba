"""Our shards in other people's layouts: one module a format, each over `contract.Exporter`."""
