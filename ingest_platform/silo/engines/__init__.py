"""Who builds an index: three engines behind one small interface (`contract`)."""
