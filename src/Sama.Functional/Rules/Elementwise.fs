namespace Sama.Functional

open TorchSharp
open Sama

/// A rule whose coordinates do not see each other: its options, its state, and its formula at each step.
[<NoComparison; NoEquality>]
type internal Elementwise =
    {
        Name: string
        /// those that may be learned
        Options: Learnable list
        /// names and start values of the state's vectors in registers a, b, c; no name: the register is not used
        Vectors: Given -> (string * float) list
        /// a number that the state carries: its name, its start, and its value at step t from the one before
        Number: (string * float * (Given -> int64 -> Coefficient -> Coefficient)) option
        /// whether the formula reads θ
        ReadsTheta: Given -> bool
        /// ∂u/∂θ at fixed g is Coupled·∂u/∂g + Decoupled(factor of the base rate, t): coupled decay acts through the
        /// gradient (negative where the rule climbs), decoupled decay beside it
        Coupled: Given -> Coefficient
        Decoupled: Given -> float -> int64 -> Coefficient
        /// factor of the base rate, t from 1, the number at t ↦ the step's formula
        At: Given -> float -> int64 -> Coefficient -> IKernel
        /// why there is no adaptation
        Refused: string option
    }

module internal Elementwise =

    let private off = Coefficient.Of 0.0

    /// A rule without options, state, number or decay.
    let stateless (name: string) (at: Given -> float -> int64 -> Coefficient -> IKernel) : Elementwise =
        { Name = name
          Options = []
          Vectors = fun _ -> []
          Number = None
          ReadsTheta = fun _ -> false
          Coupled = fun _ -> off
          Decoupled = fun _ _ _ -> off
          At = at
          Refused = None }

    /// The rule with its option WeightDecay: added to the gradient, or beside it at its LearningRate.
    let withDecay (maximize: bool) (decoupled: bool) (rule: Elementwise) : Elementwise =
        let rule =
            { rule with
                ReadsTheta = fun given -> not given["WeightDecay"].IsOff }

        if decoupled then
            { rule with
                Decoupled =
                    fun given rate _ -> Real.(.*) (Real.(.*) (Real.k rate) given["LearningRate"]) given["WeightDecay"] }
        else
            { rule with
                Coupled = fun given -> Options.coupled maximize given["WeightDecay"] }

    /// A rule at numbers of its options.
    [<NoComparison; NoEquality>]
    type private Described =
        { Rule: Elementwise
          Given: Given
          Vectors: (string * float) list }

    let private registers (rule: Described) (get: string -> 'x) (absent: 'x) : 'x[] =
        Array.init 3 (fun i ->
            match List.tryItem i rule.Vectors with
            | Some(name, _) when name <> "" -> get name
            | _ -> absent)

    let private number (rule: Described) (state: RuleState) : Coefficient =
        match rule.Rule.Number with
        | Some(name, _, next) ->
            let before: Coefficient =
                if rule.Given.Plain then
                    Coefficient.Of(Number.read state[name])
                else
                    Coefficient.Learned state[name]

            next rule.Given (state.Count + 1L) before
        | None -> off

    /// The twins by kernels where these serve, else by operators.
    let private inPlace (rule: Described) (kernel: RuleState -> IKernel) (slow: InPlace) : InPlace =
        let operands (state: RuleState) g theta target : Operands =
            { G = g
              Theta = if rule.Rule.ReadsTheta rule.Given then theta else null
              State = registers rule (fun name -> state[name]) null
              Target = target }

        let advance (state: RuleState) operands =
            (kernel state).StepInto true operands

            match rule.Rule.Number with
            | Some(name, _, _) -> state[name].fill_ (Number.scalar (number rule state).Value) |> ignore
            | None -> ()

            RuleState.counted state

        let serves operands =
            rule.Given.Plain && Kernel.serves operands

        { Sound =
            fun state g theta ->
                let operands = operands state g theta g

                if serves operands then
                    torch.tensor ((kernel state).IsFinite operands)
                else
                    slow.Sound state g theta
          Preview =
            fun state g theta out ->
                let operands = operands state g theta out

                if serves operands then
                    (kernel state).StepInto false operands
                else
                    slow.Preview state g theta out
          Advance =
            fun state g theta out ->
                let operands = operands state g theta out

                if serves operands then
                    advance state operands
                else
                    slow.Advance state g theta out
          AdaptInto =
            fun state g theta v ->
                let operands = operands state g theta v

                if rule.Rule.Refused.IsNone && serves operands then
                    (kernel state).AdaptInto operands
                else
                    slow.AdaptInto state g theta v }

    let private scalar (x: Coefficient) =
        if isNull x.Tensor then
            torch.tensor (x.Value, dtype = torch.float64)
        else
            x.Tensor

    let private start (rule: Described) (theta: Tensor) : RuleState =
        RuleState.create
            0L
            [ for name, start in rule.Vectors do
                  if name <> "" then
                      name, torch.full_like (theta, Number.scalar start)
              match rule.Rule.Number with
              | Some(name, start, _) -> name, scalar (Coefficient.Of start)
              | None -> () ]
            []

    let private graphs (rule: Described) (state: RuleState) =
        registers rule (fun name -> Graph.Of state[name]) (Real.k 0.0)

    let private step (rule: Described) (kernel: IKernel) (state: RuleState) (g: Tensor) (theta: Tensor) =
        let s = graphs rule state
        let moved = kernel.Step(Graph.Of g, Graph.Of theta, s[0], s[1], s[2])

        let tensors =
            [ for (name, _), x in List.zip rule.Vectors (List.take rule.Vectors.Length [ moved.A; moved.B; moved.C ]) do
                  if name <> "" then
                      name, x.Like g
              match rule.Rule.Number with
              | Some(name, _, _) -> name, scalar (number rule state)
              | None -> () ]

        moved.U.Like g, RuleState.create (state.Count + 1L) tensors []

    let private bind (description: Elementwise) (given: Given) (rate: int64 -> float) (_: Layout) : BoundRule =
        let rule =
            { Rule = description
              Given = given
              Vectors = description.Vectors given }

        let kernel (state: RuleState) =
            description.At given (rate state.Count) (state.Count + 1L) (number rule state)

        let adapt (state: RuleState) (g: Tensor) (theta: Tensor) (v: Tensor) =
            let s = graphs rule state
            let slope = (kernel state).Slope(Graph.Of g, Graph.Of theta, s[0], s[1], s[2])
            (Real.(.*) slope (Graph.Of v)).Tensor

        let decayed (state: RuleState) g theta (v: Tensor) =
            let beside =
                (description.Decoupled given (rate state.Count) (state.Count + 1L)).Times v

            let coupled = description.Coupled given

            if coupled.IsOff then
                beside
            else
                beside + coupled.Times(adapt state g theta v)

        let byGradient =
            match description.Refused with
            | Some reason -> Error reason
            | None -> Ok(BoundRule.diagonal adapt)

        let bound =
            BoundRule.create
                description.Name
                (start rule)
                (fun state -> step rule (kernel state) state)
                byGradient
                (BoundRule.diagonal decayed)
                true

        let bound =
            { bound with
                Parts = given.Plain
                InPlace = inPlace rule kernel bound.InPlace }

        if rule.Vectors.IsEmpty && rule.Rule.Number.IsNone then
            BoundRule.stateless bound
        else
            bound

    /// The rule with operators and kernels from one formula.
    let rule (description: Elementwise) : UpdateRule =
        Learnable.rule description.Name description.Options true (bind description)
