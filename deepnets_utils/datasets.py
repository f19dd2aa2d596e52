"""The data sets' names and fingerprints, as plain facts. Imports no torch."""

# sha256 over shape, dtype and bytes of training images, training labels, test images and test labels. The last
# two are scikit-learn's digits, enlarged, which stand in where the real data sets are not.
CANONICAL: dict[str, str] = {
    "mnist": "db3c3f8935fe9969b08263f63e40054905e8179a5206f54b81f4aee12a979df4",
    "fashion_mnist": "bcb0cd5f592dd922c422014fb751e4f47694c70123981f0b8bd24e81439b9179",
    "cifar10": "0d186d0abeea3ca88fb1b3bb162faf10fa492b611efb8c1d293fe30a0f9477db",
    "digits_28": "a16bbbac407d259f0b495eecfe618c25650a46786c8471a97470bffbf462afc4",
    "digits_32": "157358ce523f0c2d401a01fc78bea4701bde83296dd573f27f2e71612338dd2a",
}
