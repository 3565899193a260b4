"""The losses: image–text contrast, prototype cross-entropy on CLS and patches, feature distances."""
