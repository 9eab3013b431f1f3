"""The HTTP API: `app.create_app` joins its routers, `server.serve` serves them."""
