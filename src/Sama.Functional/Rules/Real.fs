#nowarn "3535" // static abstract members, on purpose

namespace Sama.Functional

/// Elementwise arithmetic. A formula written in it once serves tensors, which differentiate it, and the blocks of
/// a kernel; the operations and their order are the same, and so are the bits but for libtorch's square root,
/// which may be the neighbour of the nearest number.
type internal IReal<'V when 'V :> IReal<'V>> =
    static abstract Number: float -> 'V
    static abstract Add: 'V * 'V -> 'V
    static abstract Multiply: 'V * 'V -> 'V
    static abstract Divide: 'V * 'V -> 'V
    static abstract Abs: 'V -> 'V
    static abstract Root: 'V -> 'V
    static abstract IfPositive: 'V * 'V * 'V -> 'V
    /// a number with the derivative of another one, which kernels have no use for and do not compute
    static abstract Through: value: 'V * slope: (unit -> 'V) -> 'V
    static abstract Weigh: 'V * float * 'V * float -> 'V
