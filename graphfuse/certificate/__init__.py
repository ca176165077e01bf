"""A certificate that a fused node is what it replaced, to ninety digits.

The site's own nodes, cut out of the original, and the fused operator's definition are evaluated
with mpmath on the same random rational rows. Nothing here is shared with what finds, plans or
rewrites sites, nor with what evaluates models in float64.

    certify      the sites of a pair of models, each distinct one once
    cut          a site in both models, by the names that they share
    calls        what the calls of a function say of its inputs and attributes
    rows         the operands: rows on which an epsilon, a clamp or a mean shows
    exact        the nodes of a cut, one after the other
    elementwise, reductions, shaping, products, definitions    the operators, by what they do
    numbers      numbers of 200 digits, and how a type rounds them
    implied      the scale, bias and epsilon that the original's numbers imply
    digits       how far two results are apart, and in which digit
"""
