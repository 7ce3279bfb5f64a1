"""The numbers of mass concept erasure: torch and the standard library; no module here knows a model.

Everywhere in the project the name of a tensor ends in the letters of its axes, in their order: `weight_PD` is a matrix
of P rows and D columns. A small letter is a part of the axis with the capital one.

    B  batch: samples in one forward            N  items of a kind that the docstring names: sentences, images, pairs
    C  channels, of latents or of a layer       P  outputs of a projection; width of SDXL's pooled embedding
    D  width of the text context                Q  pixels of a layer, row by row
    H  attention heads; of an image its rows    R  rank of a LoRA
    I  J  rows and columns of a map or mask     S  denoising steps
    M  prompts of a concept                     T  token positions of a prompt
                                                W  columns of an image; words of a prompt
"""
