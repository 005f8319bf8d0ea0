"""Where results go: ZMQ, Tango, archive, HTTP, picture."""
