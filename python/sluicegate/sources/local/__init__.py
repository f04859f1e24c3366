"""Topics of this gateway: kept in its state, published to through its SNS endpoint (contract section 4.2)."""
