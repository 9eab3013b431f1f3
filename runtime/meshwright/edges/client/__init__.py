"""The client; `meshwright.client` is what callers import."""
