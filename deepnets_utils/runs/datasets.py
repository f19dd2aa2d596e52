"""The data sets' names and fingerprints, as plain facts. Imports no torch."""

# sha256 over dtype, shape and bytes of training images, training labels, test images and test labels. The last
# two are scikit-learn's digits, enlarged, which stand in where the real data sets are not.
CANONICAL: dict[str, str] = {
    "mnist": "da391adbc18b0d9eae51bc8b1a7a5cd9e56524915b4e635992460a8d77986c54",
    "fashion_mnist": "3ea454b731fe0165c48e8e97cf0d93b0d23260a4423dd922f4fff7b7fac1807a",
    "cifar10": "a3be4ac5e033eea769803f06a5d0787b91cd2f4bf4501a4688da04879b450a56",
    "digits_28": "a74c8ab5044ce28bb63f1902c3e16b517db1c6189fad5e055e46f2afbdbfe212",
    "digits_32": "e267be474c8a13a5fd2d6488ba15e13ed56b7a7f923640c0b7678a553c37785d",
}
