namespace Sama

/// The parameters of every level of a problem, by the level's name.
[<Sealed>]
type Levels internal (names: string[], parameters: Params[]) =
    /// A level's parameters. ArgumentException if there is no level of that name.
    member _.Item
        with get (name: string): Params =
            match System.Array.IndexOf(names, name) with
            | -1 ->
                let known = System.String.Join(", ", names)
                raise (System.ArgumentException($"no level is named '{name}'; there are: {known}", nameof name))
            | i -> parameters[i]

    /// Those of the second level; none where there is but one.
    member internal _.Second =
        if parameters.Length > 1 then
            parameters[1]
        else
            Sama.Functional.Params.none ()

    member internal _.First = parameters[0]

/// How a level between others responds to those above it.
type MiddleResponse =
    /// the levels below it respond when it is moved: the derivative of its total hypergradient
    | Total = 0
    /// the levels below it are held: the derivative of its own loss's gradient alone (Betty's approximation)
    | Held = 1
