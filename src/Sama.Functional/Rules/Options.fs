namespace Sama.Functional

open System

/// Checks of options: ArgumentException with the option's name, what it must be and what it is.
module internal Options =

    let private require (name: string) (what: string) holds (value: float) =
        if not (holds value) then
            invalidArg name $"{name} is {what}, not {value}"

    let requireNonNegative name value =
        require name "a finite number of at least 0" (fun x -> x >= 0.0 && Double.IsFinite x) value

    let requireNonPositive name value =
        require name "a finite number of at most 0" (fun x -> x <= 0.0 && Double.IsFinite x) value

    let requirePositive name value =
        require name "a finite positive number" (fun x -> x > 0.0 && Double.IsFinite x) value

    let requireFinite name value =
        require name "a finite number" Double.IsFinite value

    /// One of the values that an enumeration has.
    let requireOne<'value when 'value: struct and 'value :> System.Enum and 'value: (new: unit -> 'value)>
        (name: string)
        (value: 'value)
        =
        if not (Enum.IsDefined<'value> value) then
            let known = String.Join(", ", Enum.GetNames<'value>())
            invalidArg name $"{value} is no {typeof<'value>.Name}; there are {known}"

    let requireFraction name value =
        require name "in [0, 1)" (fun x -> x >= 0.0 && x < 1.0) value

    /// ∂u/∂θ over ∂u/∂g under decay that is added to the gradient, which is negated first to maximise.
    let coupled (maximize: bool) (weightDecay: Coefficient) : Coefficient =
        if maximize then
            Real.(.*) weightDecay (Real.k -1.0)
        else
            weightDecay
