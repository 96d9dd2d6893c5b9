"""What the real-packet tests of the service share: sockets, captures, and an independent reader."""
