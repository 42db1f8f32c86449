namespace Sama.Language

/// The architectures, which differ in positions, heads and names.
type Family =
    /// Devlin et al., 2019
    | Bert = 0
    /// Liu et al., 2019
    | Roberta = 1

/// What follows the encoder.
type Head =
    /// hidden states and, in layout, the pooler
    | None = 0
    /// logits of classes
    | Classifier = 1
    /// logits of the vocabulary at each token
    | MaskedLanguageModel = 2

/// The nonlinearity between a layer's two dense parts.
type Activation =
    /// x/2 (1 + erf(x/√2))
    | Gelu = 0
    /// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))
    | GeluTanh = 1
    /// max(x, 0)
    | Relu = 2
    /// x σ(x)
    | Silu = 3
