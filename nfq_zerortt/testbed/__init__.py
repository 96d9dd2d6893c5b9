"""The test network: four hosts as network namespaces, and the WAN between them."""
