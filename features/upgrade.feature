@former_database
Feature: An upgrade migrates the plans of the former release
  An operator who deploys this release must find every plan that was there before, with
  the gaps filled that the former release left, and nothing else touched.

  Rule: Every plan gets the root of its tree

    Scenario: The former release did not know every root
      Given the former release left these plans
        | plan   | parent | root  |
        | house  |        |       |
        | roof   | house  | house |
        | tiles  | roof   |       |
        | nails  | tiles  |       |
        | garden |        |       |
      When the database is upgraded
      Then these are the plans
        | plan   | parent | root   |
        | house  |        | house  |
        | roof   | house  | house  |
        | tiles  | roof   | house  |
        | nails  | tiles  | house  |
        | garden |        | garden |

    Scenario: A root that is known is kept
      Given the former release left these plans
        | plan  | parent | root  |
        | house |        |       |
        | shed  |        | house |
        | shelf | shed   |       |
      When the database is upgraded
      Then these are the plans
        | plan  | parent | root  |
        | house |        | house |
        | shed  |        | house |
        | shelf | shed   | house |

    Scenario: A child that is older than its parent
      Given the former release left these plans
        | plan  | parent | root |
        | tiles | roof   |      |
        | roof  | house  |      |
        | house |        |      |
      When the database is upgraded
      Then these are the plans
        | plan  | parent | root  |
        | tiles | roof   | house |
        | roof  | house  | house |
        | house |        | house |

    @use.with_engine=sqlite
    Scenario: A parent that does not exist any more
      Given the former release left these plans
        | plan  | parent       | root |
        | roof  | a lost house |      |
        | tiles | roof         |      |
      When the database is upgraded
      Then these are the plans
        | plan  | parent       | root |
        | roof  | a lost house | roof |
        | tiles | roof         | roof |

  Rule: Every plan gets a profile

    Scenario: The former release did not name one
      Given the former release left these plans
        | plan   | profile                |
        | house  |                        |
        | roof   | blanks                 |
        | garden | trusted by the project |
      When the database is upgraded
      Then these are the plans
        | plan   | profile                |
        | house  | balanced               |
        | roof   | balanced               |
        | garden | trusted by the project |

  Rule: A snapshot that was not taken stays empty

    Scenario: A plan from before snapshots
      Given the former release left these plans
        | plan  | profile              |
        | house |                      |
        | roof  | cautious by the plan |
      When the database is upgraded
      Then their snapshots are empty

  Rule: Nothing else changes

    Scenario: All else about a plan is as it was
      Given the former release left these plans
        | plan  | parent | root | profile |
        | house |        |      |         |
        | roof  | house  |      |         |
      When the database is upgraded
      Then all else about them is as it was

    Scenario: An upgrade that was done already
      Given the former release left these plans
        | plan  | parent | root |
        | house |        |      |
        | roof  | house  |      |
      And the database was upgraded
      When the database is upgraded
      Then nothing has changed

    Scenario: A correction of a plan stays
      Given the former release left these plans
        | plan  |
        | house |
      And a correction of "house"
      When the database is upgraded
      Then there is a correction of "house"

    Scenario: A correction goes with its plan
      Given the former release left these plans
        | plan  |
        | house |
      And a correction of "house"
      And the database was upgraded
      When a client deletes "house"
      Then there is no correction

    Scenario: A correction of a missing plan is refused
      Given corrections are kept beside the plans
      And the database was upgraded
      When a client tries to correct a plan that does not exist
      Then it is refused
      And there is no correction

  Rule: An upgrade that cannot be done changes nothing

    Scenario: Plans that are parts of each other have no root
      Given the former release left these plans
        | plan  | parent |
        | house | roof   |
        | roof  | house  |
        | shed  |        |
      When an operator tries to upgrade the database
      Then the error says "are their own ancestors and have no root"
      And the error names the plans "house" and "roof"
      And nothing has changed

  @use.with_engine=postgresql
  Rule: The former release may go on for as long as it runs

    Scenario: It goes on leaving gaps
      Given the former release left these plans
        | plan  |
        | house |
      And the database was upgraded as far as the former release can write to it
      When the former release stores these plans
        | plan  | parent | profile |
        | roof  | house  |         |
        | tiles | roof   | blanks  |
      And the database is upgraded
      Then these are the plans
        | plan  | parent | root  | profile  |
        | house |        | house | balanced |
        | roof  | house  | house | balanced |
        | tiles | roof   | house | balanced |
