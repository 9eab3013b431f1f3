"""The HTTP API: one module a noun, joined by `app.create_app` and served by `server.serve`."""
