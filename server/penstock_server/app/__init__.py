"""The server as one thing: settings, assembly, start and drain."""
