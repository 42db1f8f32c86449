namespace Sama.Functional

open TorchSharp
open Sama

/// An option that may be learned: its name, its fixed number, and what a number must be.
[<NoComparison; NoEquality>]
type internal Learnable =
    { Name: string
      Value: float
      Require: string -> float -> unit }

/// Rules of numbers by name, some of which may be learned.
module internal Learnable =

    let private learnable require name value : Learnable =
        { Name = name
          Value = value
          Require = require }

    let nonNegative = learnable Options.requireNonNegative
    let nonPositive = learnable Options.requireNonPositive
    let positive = learnable Options.requirePositive
    let fraction = learnable Options.requireFraction
    let finite = learnable Options.requireFinite

    let private known (rule: string) (options: Learnable list) (name: string) : Learnable =
        match
            options
            |> List.tryFind (fun o -> System.String.Equals(o.Name, name, System.StringComparison.OrdinalIgnoreCase))
        with
        | Some option -> option
        | None ->
            let names = options |> List.map _.Name |> String.concat ", "

            invalidArg
                "option"
                (if options.IsEmpty then
                     $"rule '{rule}' has no option of its own to be learned; give it to the rules that it is made of"
                 else
                     $"rule '{rule}' has no option '{name}' to be learned; it has: {names}")

    /// A learned number: plain as long as nothing is differentiated, so that kernels serve, else a tensor.
    let private coefficient (layout: Layout) (perCoordinate: bool) (rule: string) (option: Learnable) (value: Tensor) =
        let lengths = [| for slice in layout.Slices -> slice.Length |]
        let one = value.numel () = 1L

        if not (value.requires_grad) then
            Scope.run (fun _ ->
                option.Require option.Name (Number.read (value.min ()))
                option.Require option.Name (Number.read (value.max ())))

        let many =
            if one then
                null
            elif not perCoordinate then
                invalidArg option.Name $"{option.Name} of rule '{rule}' is one number, not {value.numel ()}"
            elif value.numel () = layout.Length then
                value
            elif value.numel () = int64 lengths.Length then
                value.repeat_interleave (torch.tensor(lengths).``to`` value.device, 0L)
            else
                invalidArg
                    option.Name
                    $"{option.Name} of rule '{rule}' is one number, one a parameter ({lengths.Length}) or one a coordinate ({layout.Length}), not {value.numel ()}"

        match many with
        | null when value.requires_grad -> Coefficient.Learned(value.reshape [||])
        | null -> Coefficient.Learned(Number.read (value.reshape [||]))
        | many -> Coefficient.Learned many

    /// A rule of these numbers: its options are learned where they are told to. `rescaled` says how a schedule acts: on the
    /// rate, by which `build` multiplies its own, or, by default, on u.
    let rule
        (name: string)
        (options: Learnable list)
        (perCoordinate: bool)
        (build: Given -> (int64 -> float) -> Layout -> BoundRule)
        : UpdateRule =
        let fixed' = [ for option in options -> option.Name, option.Value ]

        let rec make (rate: int64 -> float) (learned: Learned list) : UpdateRule =
            let names = learned |> List.map _.Option
            let at values = Given(fixed', values)

            let bind layout =
                let start =
                    at [ for name in names -> name, Coefficient.Learned((known "" options name).Value) ]

                { build start rate layout with
                    Learned = learned
                    At =
                        fun values ->
                            at
                                [ for own, value in List.zip names values ->
                                      own, coefficient layout perCoordinate name (known name options own) value ]
                            |> fun given -> build given rate layout }

            let all = String.concat ", " names

            { Name = if names.IsEmpty then name else $"{name} ({all} learned)"
              Bind = bind
              Rescale = Some(fun schedule -> make (fun t -> rate t * schedule t) learned)
              Learn =
                fun wanted ->
                    let option = known name options wanted.Option

                    if List.contains option.Name names then
                        invalidArg "option" $"option {option.Name} of rule '{name}' is learned twice"

                    make rate (learned @ [ { wanted with Option = option.Name } ]) }

        make (fun _ -> 1.0) []

    /// What a rule without options of its own answers.
    let nothing (name: string) (wanted: Learned) : UpdateRule =
        invalidOp (known name [] wanted.Option).Name
