"""CloudFormation: templates resolved on this machine, and the provider of our custom resources (contract section 1).

`provider.py` stands alone: it is also what runs in AWS Lambda, with nothing but the standard library beside it.
"""
