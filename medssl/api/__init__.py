"""What a Python program uses: `medssl.load` and `medssl.Study`."""
