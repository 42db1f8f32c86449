namespace Sama.Functional

open TorchSharp
open Sama

/// A rule whose coordinates do not see each other: its state, and its formula at each step.
[<NoComparison; NoEquality>]
type internal Elementwise =
    {
        Name: string
        /// names and start values of the state's vectors in registers a, b, c; no name: the register is not used
        Vectors: (string * float) list
        /// a number that the state carries: its name, its start, and its value at step t from the one before
        Number: (string * float * (int64 -> float -> float)) option
        /// whether the formula reads θ
        ReadsTheta: bool
        /// ∂u/∂θ at fixed g is Coupled·∂u/∂g + Decoupled(factor of the base rate, t): coupled decay acts through the
        /// gradient (negative where the rule climbs), decoupled decay beside it
        Coupled: float
        Decoupled: float -> int64 -> float
        /// factor of the base rate, t from 1, the number at t ↦ the step's formula
        At: float -> int64 -> float -> IKernel
        /// why there is no adaptation
        Refused: string option
    }

module internal Elementwise =

    /// A rule without state, number or decay.
    let stateless (name: string) (at: float -> int64 -> float -> IKernel) : Elementwise =
        { Name = name
          Vectors = []
          Number = None
          ReadsTheta = false
          Coupled = 0.0
          Decoupled = fun _ _ -> 0.0
          At = at
          Refused = None }

    /// The rule with decay of its own options: added to the gradient, or beside it at that rate.
    let withDecay (maximize: bool) (weightDecay: float) (beside: float option) (rule: Elementwise) : Elementwise =
        let rule =
            { rule with
                ReadsTheta = weightDecay <> 0.0 }

        match beside with
        | None ->
            { rule with
                Coupled = Options.coupled maximize weightDecay }
        | Some learningRate ->
            { rule with
                Decoupled = fun rate _ -> rate * learningRate * weightDecay }

    let private registers (rule: Elementwise) (get: string -> 'x) (absent: 'x) : 'x[] =
        Array.init 3 (fun i ->
            match List.tryItem i rule.Vectors with
            | Some(name, _) when name <> "" -> get name
            | _ -> absent)

    let private number (rule: Elementwise) (state: RuleState) : float =
        match rule.Number with
        | Some(name, _, next) -> next (state.Count + 1L) (Number.read state[name])
        | None -> 0.0

    /// The twins by kernels where these serve, else by operators.
    let private inPlace (rule: Elementwise) (kernel: RuleState -> IKernel) number (slow: InPlace) : InPlace =
        let operands (state: RuleState) g theta target : Operands =
            { G = g
              Theta = if rule.ReadsTheta then theta else null
              State = registers rule (fun name -> state[name]) null
              Target = target }

        let advance (state: RuleState) operands =
            (kernel state).StepInto true operands

            match rule.Number with
            | Some(name, _, _) -> state[name].fill_ (Number.scalar (number rule state)) |> ignore
            | None -> ()

            RuleState.counted state

        { Sound =
            fun state g theta ->
                let operands = operands state g theta g

                if Kernel.serves operands then
                    torch.tensor ((kernel state).IsFinite operands)
                else
                    slow.Sound state g theta
          Preview =
            fun state g theta out ->
                let operands = operands state g theta out

                if Kernel.serves operands then
                    (kernel state).StepInto false operands
                else
                    slow.Preview state g theta out
          Advance =
            fun state g theta out ->
                let operands = operands state g theta out

                if Kernel.serves operands then
                    advance state operands
                else
                    slow.Advance state g theta out
          AdaptInto =
            fun state g theta v ->
                let operands = operands state g theta v

                if rule.Refused.IsNone && Kernel.serves operands then
                    (kernel state).AdaptInto operands
                else
                    slow.AdaptInto state g theta v }

    let private scalar (x: float) = torch.tensor (x, dtype = torch.float64)

    let private start (rule: Elementwise) (theta: Tensor) : RuleState =
        RuleState.create
            0L
            [ for name, start in rule.Vectors do
                  if name <> "" then
                      name, torch.full_like (theta, Number.scalar start)
              match rule.Number with
              | Some(name, start, _) -> name, scalar start
              | None -> () ]
            []

    let private graphs (rule: Elementwise) (state: RuleState) =
        registers rule (fun name -> Graph.Of state[name]) (Real.k 0.0)

    let private step (rule: Elementwise) (kernel: IKernel) (state: RuleState) (g: Tensor) (theta: Tensor) =
        let s = graphs rule state
        let moved = kernel.Step(Graph.Of g, Graph.Of theta, s[0], s[1], s[2])

        let tensors =
            [ for (name, _), x in List.zip rule.Vectors (List.take rule.Vectors.Length [ moved.A; moved.B; moved.C ]) do
                  if name <> "" then
                      name, x.Like g
              match rule.Number with
              | Some(name, _, _) -> name, scalar (number rule state)
              | None -> () ]

        moved.U.Like g, RuleState.create (state.Count + 1L) tensors []

    let private bind (rate: int64 -> float) (rule: Elementwise) : BoundRule =
        let kernel (state: RuleState) =
            rule.At (rate state.Count) (state.Count + 1L) (number rule state)

        let adapt (state: RuleState) (g: Tensor) (theta: Tensor) (v: Tensor) =
            let s = graphs rule state
            let slope = (kernel state).Slope(Graph.Of g, Graph.Of theta, s[0], s[1], s[2])
            (Real.(.*) slope (Graph.Of v)).Tensor

        let decayed (state: RuleState) g theta (v: Tensor) =
            let beside = v * rule.Decoupled (rate state.Count) (state.Count + 1L)

            if rule.Coupled = 0.0 then
                beside
            else
                beside + adapt state g theta v * rule.Coupled

        let byGradient =
            match rule.Refused with
            | Some reason -> Error reason
            | None -> Ok(BoundRule.diagonal adapt)

        let bound =
            BoundRule.create
                rule.Name
                (start rule)
                (fun state -> step rule (kernel state) state)
                byGradient
                (BoundRule.diagonal decayed)
                true

        { bound with
            InPlace = inPlace rule kernel number bound.InPlace }

    /// The rule with operators and kernels from one formula.
    let rule (description: Elementwise) : UpdateRule =
        let rec at (rate: int64 -> float) : UpdateRule =
            { Name = description.Name
              Bind = fun _ -> bind rate description
              Rescale = Some(fun schedule -> at (fun t -> rate t * schedule t)) }

        at (fun _ -> 1.0)
