Feature: Where plans differ from the specification, the list of deviations says so
  A reader of the specification must not be surprised by a database: each
  difference that is meant has its reason on the list, and there are no others.

  Rule: A plan begins with being set up

    @database
    Scenario: A new plan is in the action phase
      Given the specification lets a plan begin in the strategize phase
      When another program stores a plan and leaves out every column with a default
      Then the stored plan is queued in the action phase
      And the list says why a plan begins in the action phase

  Rule: A name that is kept has a reason

    Scenario Outline: A thing has another name here
      Given the specification calls it "<specified>"
      When "<specified>" is looked up in the list of deviations
      Then it is called "<name>" here
      And the list says why

      Examples:
        | specified               | name               |
        | plans                   | v3_plans           |
        | state                   | processing_state   |
        | automation_profile_name | automation_profile |
        | strategy_actor_name     | strategy_actor     |
        | execution_actor_name    | execution_actor    |
        | estimation_actor_name   | estimation_actor   |
        | invariant_actor_name    | invariant_actor    |
        | error_traceback         | error_details_json |
